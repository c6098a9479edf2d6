"""What a user does: each module is one thing, told in terms of checkouts, revisions and images."""
