"""Networks: creating, loading and starting them from other people's weights."""
