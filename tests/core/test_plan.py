"""What runs where on the first day."""

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.fit import GB, Place
from rolemesh.core.gguf import Header
from rolemesh.core.plan import Found, Plan, make_plan

LLAMA_8B = Header("llama", "", 131072, 32, 4096, 32, (8,) * 32, 128, 128)  # 128 KiB a token
HOST = Place("this machine", 30 * GB, 32 * GB, gpu=False)


def model(name: str, size: float, header: Header = LLAMA_8B) -> Found:
    return Found(name, int(size * GB), header)


def card(index: int, free: float, total: float = 24) -> tuple[int, Place]:
    return index, Place(f"GPU {index}", int(free * GB), int(total * GB))


def told(plan: Plan) -> list[tuple[str, int | str | None, int, int]]:
    return [(each.model.name, each.gpu, each.slots, each.context) for each in plan.chosen]


class PlanTests(SynchronousTestCase):
    def test_the_most_that_fits(self) -> None:
        """With 23 GB free a model of 5 GB gets 4 slots of 32k; with 11 GB one of 32k."""
        small = model("m", 5)
        self.assertEqual(told(make_plan([small], [card(0, 23)], HOST)), [("m", 0, 4, 32768)])
        self.assertEqual(told(make_plan([small], [card(0, 11)], HOST)), [("m", 0, 1, 32768)])

    def test_no_longer_than_it_was_trained(self) -> None:
        """A model of 4k gets no more."""
        short = model("m", 5, evolve(LLAMA_8B, context=4096))
        self.assertEqual(told(make_plan([short], [card(0, 23)], HOST)), [("m", 0, 4, 4096)])

    def test_the_largest_that_fits_goes_first(self) -> None:
        """What is too large is left, with the reason; so is what is not needed."""
        models = [model("small", 3), model("large", 18), model("huge", 60)]
        plan = make_plan(models, [card(0, 23)], HOST)
        self.assertEqual([each.model.name for each in plan.chosen], ["large"])
        left = {found.name: why for found, why in plan.left}
        self.assertEqual(left["huge"], "60.0 GB do not fit: GPU 0 has 23.0 GB free")
        self.assertEqual(left["small"], "another one was chosen")

    def test_each_gpu_gets_one(self) -> None:
        """Another model if it is not much smaller, else the same again."""
        cards = [card(0, 23), card(1, 23)]
        two = make_plan([model("a", 14), model("b", 8)], cards, HOST)
        self.assertEqual([(c.model.name, c.gpu) for c in two.chosen], [("a", 0), ("b", 1)])
        same = make_plan([model("a", 14), model("b", 1)], cards, HOST)
        self.assertEqual([(c.model.name, c.gpu) for c in same.chosen], [("a", 0), ("a", 1)])

    def test_alike(self) -> None:
        """For a role that was named beforehand all GPUs get the same model."""
        cards = [card(0, 23), card(1, 23)]
        plan = make_plan([model("a", 14), model("b", 8)], cards, HOST, alike=True)
        self.assertEqual([(c.model.name, c.gpu) for c in plan.chosen], [("a", 0), ("a", 1)])

    def test_all_gpus_together(self) -> None:
        """A model that fits into none of them alone."""
        plan = make_plan([model("a", 34)], [card(0, 23), card(1, 23)], HOST)
        self.assertEqual([(c.model.name, c.gpu) for c in plan.chosen], [("a", "all")])

    def test_a_box_without_gpus(self) -> None:
        """One model in the machine's memory, of which some stays free for the rest."""
        self.assertEqual(told(make_plan([model("a", 5)], [], HOST)), [("a", None, 2, 32768)])
        full = evolve(HOST, free=8 * GB)
        self.assertEqual(told(make_plan([model("a", 5)], [], full)), [("a", None, 1, 4096)])
        self.assertEqual(told(make_plan([model("a", 7)], [], full)), [])

    def test_a_full_gpu(self) -> None:
        """Where no model fits into the GPUs, one runs beside them."""
        plan = make_plan([model("a", 5)], [card(0, 1)], HOST)
        self.assertEqual([each.gpu for each in plan.chosen], [None])

    def test_a_head_that_tells_nothing(self) -> None:
        """Then llama-server decides: one slot, and no context."""
        plan = make_plan([model("a", 5, Header())], [card(0, 23)], HOST)
        self.assertEqual(told(plan), [("a", 0, 1, 0)])

    def test_helpers_of_other_models(self) -> None:
        """Embeddings and rerankers are not started as chats, and said so."""
        bert = Found("nomic", GB, evolve(LLAMA_8B, architecture="nomic-bert"))
        plan = make_plan([bert, model("qwen3-embedding-8b", 8)], [card(0, 23)], HOST)
        self.assertEqual(plan.chosen, ())
        self.assertEqual(len(plan.left), 2)
        self.assertIn("not for chats", plan.left[0][1])
