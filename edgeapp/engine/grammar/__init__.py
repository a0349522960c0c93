"""Read grammars from outside (GBNF, regular expressions, JSON schemas) before native code sees them.

Everything is parsed here, counted against caps, and written anew in the one dialect that the constraint
engine gets. Pure: knows no model, no token and no file.
"""
