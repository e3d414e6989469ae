"""One module per runtime; `rtc.targets.loader` imports one when it is asked for."""
