"""What tsjax is compared with; nothing in ``tsjax/`` imports it."""
