"""The server on a Ray cluster: several replicas behind one address."""
