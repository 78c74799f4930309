"""What an operator does about a damaged document: look at its log, find the bad update, take it out, make the log whole again."""
