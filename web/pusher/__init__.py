"""The Pusher protocol 7: its socket, its REST API, its signatures and its webhooks."""
