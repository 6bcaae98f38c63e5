"""
The commands of ``sb3-prefine``, one module each.

A command's function is its interface: tyro makes the options of its parameters, and the help of its docstring. These
modules import nothing heavy before a command runs: they add nothing to the time that importing the package takes.
"""
