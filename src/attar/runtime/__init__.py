"""What any long computation needs: files, events, seeds, devices. Knows nothing of distillation."""
