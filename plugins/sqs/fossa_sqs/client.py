"""The SDK's client, with deadlines, and its errors in words."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from fossa import ConfigError, FossaError

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

#: Seconds between two tries: the first, and at the most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
#: Answers that trying again does not change.
_GONE = ("ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidIdFormat")
_NO_QUEUE = ("QueueDoesNotExist", "NonExistentQueue")
_NO_LOGIN = (
    "InvalidClientTokenId", "UnrecognizedClient", "SignatureDoesNotMatch", "AccessDenied",
    "InvalidAccessKeyId", "AuthFailure",
)  # fmt: skip
_NO_USE = (*_GONE, *_NO_QUEUE, "InvalidParameter", "InvalidMessageContents", "InvalidAttribute",
           "TooLong", "MissingParameter", "UnsupportedOperation")  # fmt: skip
_T = TypeVar("_T")


class SqsTrouble(FossaError):
    """SQS did not do what was asked; later it may."""


class SqsRefused(FossaError):
    """SQS did not do what was asked, and will not.

    Attributes:
        code: SQS's own word for it.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)

    @property
    def gone(self) -> bool:
        """Whether the message is not ours any more."""
        return any(word in self.code for word in _GONE)

    @property
    def no_queue(self) -> bool:
        return any(word in self.code for word in _NO_QUEUE)


class Sqs:
    """One client, open for as long as its `async with`, or from `open` to `close`.

    Args:
        region: None: as the SDK finds it.
        endpoint_url: None: Amazon's.
        timeout: seconds for an answer.
        poll: seconds that a receive may wait besides.
    """

    def __init__(
        self, region: str | None, endpoint_url: str | None, timeout: float, poll: float = 20
    ) -> None:
        self._region, self._endpoint_url = region, endpoint_url
        self._timeout, self._poll = timeout, poll
        self._stack = contextlib.AsyncExitStack()
        self._client: SQSClient | None = None

    async def open(self) -> None:
        """Make the client. Raises ConfigError where region or credentials cannot be found."""
        session = get_session()
        config = AioConfig(
            connect_timeout=self._timeout,
            read_timeout=self._timeout + self._poll,
            retries={"total_max_attempts": 1},
        )
        try:
            found: Any = await self._stack.enter_async_context(
                session.create_client(
                    "sqs",
                    region_name=self._region,
                    endpoint_url=self._endpoint_url,
                    config=config,
                )
            )
            credentials: Any = await session.get_credentials()
        except NoRegionError:
            raise _mistake(
                "region is missing: give region='eu-west-1', or set AWS_REGION"
            ) from None
        except (BotoCoreError, ValueError) as error:
            raise _mistake(f"the SDK cannot make a client: {error}") from None
        if credentials is None:
            raise _mistake(
                "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
                "profile (AWS_PROFILE), or give the computer a role"
            )
        self._client = found

    async def close(self) -> None:
        self._client = None
        await self._stack.aclose()

    @property
    def client(self) -> "SQSClient":
        if self._client is None:
            raise SqsTrouble("it is not open")
        return self._client

    async def call(self, operation: str, *, wait: float = 0, **values: Any) -> Any:
        """One operation of SQS, once.

        Raises:
            SqsTrouble: it did not work now.
            SqsRefused: it will not work later either.
        """
        try:
            async with asyncio.timeout(self._timeout + wait):
                return await getattr(self.client, operation)(**values)
        except ClientError as error:
            raise _understood(operation, error) from None
        except TimeoutError:
            raise SqsTrouble(f"{operation}: no answer within {self._timeout + wait:g} s") from None
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise SqsTrouble(f"{operation}: {error}: see the credentials of this node") from None
        except (BotoCoreError, OSError) as error:
            raise SqsTrouble(f"{operation}: {error}") from None

    async def insist(self, operation: str, *, tries: int = 6, **values: Any) -> Any:
        """One operation, several times if need be. Raises as `call` does."""
        return await insist(lambda: self.call(operation, **values), tries)


async def insist(act: Callable[[], Awaitable[_T]], tries: int = 6) -> _T:
    """Try again, with longer and longer pauses. Raises the last SqsTrouble."""
    for number in range(tries - 1):
        try:
            return await act()
        except SqsTrouble:
            await asyncio.sleep(pause(number))
    return await act()


def pause(number: int) -> float:
    """Seconds before the next try, after so many pauses."""
    longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(number, 10))
    return longest * random.uniform(0.5, 1.0)


def _understood(operation: str, error: ClientError) -> FossaError:
    said = error.response.get("Error", {})
    code, text = str(said.get("Code", "")), str(said.get("Message", ""))[:300]
    if any(word in code for word in _NO_USE):
        return SqsRefused(code, f"{operation}: {code}: {text}")
    hint = ": see the credentials of this node" if _is_about_login(code) else ""
    return SqsTrouble(f"{operation}: {code}: {text}{hint}")


def _is_about_login(code: str) -> bool:
    return any(word in code for word in (*_NO_LOGIN, "ExpiredToken", "Credentials"))


def _mistake(text: str) -> ConfigError:
    return ConfigError('use("sqs")', [text])
