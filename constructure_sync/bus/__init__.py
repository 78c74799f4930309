"""How instances tell one another what they have saved, who is present, and whose rights have changed (R6, R8).

The bus may lose, repeat and reorder whatever it carries: it only says that a log has grown. The log is the truth.
"""
