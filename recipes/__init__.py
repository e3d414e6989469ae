"""What rtc compiles: recipes (*.yaml here), network definitions in `models`, data in `datasets`."""
