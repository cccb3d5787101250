"""What one worker needs of the queue: its link to Redis, its leases, what it asks for and what it hears."""
