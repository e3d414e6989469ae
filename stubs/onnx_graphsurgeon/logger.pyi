from contextlib import AbstractContextManager

class Logger:
    def suppress(self) -> AbstractContextManager[None]: ...

G_LOGGER: Logger
