"""What every attention head remembers: plans, the buffers that execute them, attention over them, and its scores."""
