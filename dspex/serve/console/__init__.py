"""The console: pages made on the server, which work without JavaScript but for what is live."""
