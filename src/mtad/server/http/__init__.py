"""What stands in front of the routes: keys, hosts, limits of bodies."""
