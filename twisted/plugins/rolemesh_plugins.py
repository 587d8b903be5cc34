"""What `twistd --help` lists. Every twistd start imports this file, so it imports nothing else."""

from twisted.application.service import ServiceMaker

gateway = ServiceMaker(
    "RoleMesh gateway",
    "rolemesh.gateway.tap",
    "Serve roles to OpenAI clients.",
    "rolemesh-gateway",
)
node = ServiceMaker(
    "RoleMesh node agent",
    "rolemesh.node.tap",
    "Keep this machine's llama-servers alive and report them.",
    "rolemesh-node",
)
