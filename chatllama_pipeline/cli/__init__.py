"""The console script `chatllama`: one module a command.

What a command does lives on the floors below; here it is asked for and told.
"""
