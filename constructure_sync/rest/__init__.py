"""The REST layer: parse, authorise, call, render. `routes.py` is the page to read first."""
