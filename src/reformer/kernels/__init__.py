"""Fast implementations behind ``ops/dispatch.py``; nothing else imports them."""
