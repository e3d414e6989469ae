"""What a report says and what a bundle holds, put together."""
