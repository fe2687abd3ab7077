"""The same run elsewhere: on rented machines and on clusters.

Nothing is here yet.
"""
