"""What both programs share under twistd."""
