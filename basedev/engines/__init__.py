"""One package per way of making an image: what differs between Julia families lives here only."""
