"""Whether a store may stand at a place: what versions rest on, tried there by doing it.

`start` tries what is quick, once a machine and place; `check` tries it all, with other processes.
"""
