"""What is kept on the disk: durable files, sealed folders, the store of results."""
