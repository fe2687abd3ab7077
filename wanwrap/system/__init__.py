"""What any program needs: files that are whole or not there, locks, other programs and their ends, safetensors, and a
way to tell the user.

Others use `files`, `disk`, `process`, `log`, `failures`, `safetensors`, `gpu`, `shell`, `windows` and `console`.
"""
