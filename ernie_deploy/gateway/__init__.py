"""The files that a gateway reads beside the compose file: the clients' keys and the certificate."""
