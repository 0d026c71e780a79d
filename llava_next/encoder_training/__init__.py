"""Train the OneVision Encoder itself: from images and videos to weights."""
