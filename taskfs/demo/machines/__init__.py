"""The machines of running tasks, which serve their files over WebRTC data channels."""
