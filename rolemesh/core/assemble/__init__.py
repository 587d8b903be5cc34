"""A streamed answer put together into the one that the server would have given without streaming.

llama-server looks at a waiting client only between its results, and so never at a non-streaming
one while other requests run. Asked for a stream, it notices at once when the client leaves.
"""

from rolemesh.core.assemble.ask import STREAMED, as_stream
from rolemesh.core.assemble.assembler import Assembler, Failure

__all__ = ["STREAMED", "Assembler", "Failure", "as_stream"]
