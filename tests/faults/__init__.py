"""Long runs that try to make the server lose, corrupt or refuse what it should keep: `make faults ARGS="NAME --count N"`."""
