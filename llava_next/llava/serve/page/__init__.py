"""The page that the server shows in the browser: its files, what they ask for, sample clips."""
