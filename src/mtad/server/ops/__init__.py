"""Running a server: start and shutdown, logs, metrics, Ray."""
