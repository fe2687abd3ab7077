"""The command line: one module a verb, and the only room that prints.

Nobody imports it but `__main__`: `main` is the whole of it.
"""
