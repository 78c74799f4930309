"""One module for each question; each offers `cases(knobs)`."""
