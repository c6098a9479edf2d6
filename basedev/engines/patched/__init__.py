"""The engine for a source checkout of current Julia, whose runtime has the changes of `patches/`."""
