"""The system that the course builds: will the market close up tomorrow, and will tomorrow be a big-move day?"""
