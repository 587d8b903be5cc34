"""Options out of help texts, and arguments that are none of them."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.options import read_help, unknown

# As llama-server prints it: names, then a description from the 41st column on.
LLAMA_SERVER = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto')
-ctk,  --cache-type-k TYPE              KV cache data type for K
--mmap, --no-mmap                       whether to memory-map model (if mmap is disabled, see
                                        --mlock)
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
--control-vector-layer-range START END
                                        layer range to apply the control vector(s) to
-m,    --model FNAME                    model path to load

----- sampling params -----

-l,    --logit-bias TOKEN_ID(+/-)BIAS   modifies the likelihood of token appearing,
                                        i.e. `--logit-bias 15043+1` to increase likelihood of token
"""

ARGPARSE = """\
usage: llama-server [-h] [--port PORT]

options:
  -h, --help            show this help message and exit
  -ngl N_GPU_LAYERS, --n-gpu-layers N_GPU_LAYERS, --gpu-layers N_GPU_LAYERS
  --jinja
  --pooling {none,mean}
"""


class HelpTests(SynchronousTestCase):
    def test_llama_server(self) -> None:
        """Every name, with whether a value follows, and nothing from the descriptions."""
        options = read_help(LLAMA_SERVER)
        plain = {name for name, takes_value in options.items() if not takes_value}
        self.assertEqual(plain, {"-h", "--help", "--usage", "--mmap", "--no-mmap"})
        for name in ("-t", "--threads", "-fa", "--flash-attn", "-ngl", "--n-gpu-layers", "-l"):
            self.assertTrue(options[name], name)
        self.assertTrue(options["--control-vector-layer-range"])
        self.assertNotIn("--mlock", options)

    def test_argparse(self) -> None:
        """A launcher in Python lists its options in another way."""
        options = read_help(ARGPARSE)
        self.assertEqual(options["--jinja"], False)
        self.assertEqual([options["-ngl"], options["--gpu-layers"]], [True, True])
        self.assertNotIn("--port", options)

    def test_unknown_arguments(self) -> None:
        """Options that are none, by their place; values and numbers are no options."""
        options = read_help(LLAMA_SERVER)
        args = ["-t", "-1", "--flsh-attn", "on", "-m", "-x", "--no-mmap", "--nope=3", "value"]
        self.assertEqual(list(unknown(args, options)), [2, 7])

    def test_underscores(self) -> None:
        """llama-server takes them for hyphens in long names, and nowhere else."""
        options = read_help(LLAMA_SERVER)
        args = ["--cache_type_k", "q8_0", "--no_mmap", "--model=a_b.gguf", "-t_x"]
        self.assertEqual(list(unknown(args, options)), [4])
