"""The table of the API: method and path -> handler, what it is for, who may call it, what it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from node.api import audits, handlers, openai
from node.api.audits import AuditRequest
from node.api.guards import Access
from node.api.openai_requests import ChatRequest, CompletionRequest
from node.api.openapi import docs_page, openapi_facts
from node.api.responses import json_response
from node.api.view import Asked


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One row. ``takes``: its body, if it is JSON."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    access: Access
    what: str
    takes: Any = None


async def get_openapi(request: Request) -> Response:
    return json_response(openapi_facts(ROUTES))


async def get_docs(request: Request) -> Response:
    return Response(docs_page(ROUTES), media_type="text/html")


READ, ASK, CHANGE = Access.READ, Access.ASK, Access.CHANGE

ROUTES: Final = (
    ApiRoute("GET", "/v1/models", openai.get_models, READ, "the model, as OpenAI lists models"),
    ApiRoute("GET", "/v1/models/{model}", openai.get_model, READ, "the same, by its name"),
    ApiRoute("POST", "/v1/completions", openai.post_completions, ASK, "a text goes on", CompletionRequest),
    ApiRoute("POST", "/v1/chat/completions", openai.post_chat_completions, ASK, "a conversation goes on", ChatRequest),
    ApiRoute("POST", "/generate", handlers.post_generate, ASK, "a text goes on, as server-sent events", Asked),
    ApiRoute("POST", "/chat", handlers.post_chat, ASK, "a text goes on, whole", Asked),
    ApiRoute("POST", "/chat/distributed", handlers.post_chat_distributed, ASK, "the same, by experts of peers", Asked),
    ApiRoute("GET", "/status", handlers.get_status, READ, "what this node is and does"),
    ApiRoute("GET", "/rounds", handlers.get_rounds, READ, "the last rounds of learning"),
    ApiRoute("GET", "/rounds/{round:int}", handlers.get_round_slots, READ, "what a round decided"),
    ApiRoute("GET", "/tiles", handlers.get_tiles, READ, "tiles, versions, owners"),
    ApiRoute("GET", "/experts", handlers.get_experts, READ, "experts and their versions"),
    ApiRoute("GET", "/experts/calls", handlers.get_expert_calls, READ, "calls of experts, served and made"),
    ApiRoute("GET", "/experts/{expert}", handlers.get_expert, READ, "one expert"),
    ApiRoute("GET", "/peers", handlers.get_peers, READ, "who is known, who is connected"),
    ApiRoute("GET", "/p2p/nodes", handlers.get_peers, READ, "the same"),
    ApiRoute("GET", "/kept", handlers.get_custody, READ, "what this node keeps for everybody"),
    # Others are asked for it.
    ApiRoute(
        "GET", "/kept/{blob}/{tile:int}", handlers.get_kept_tile, CHANGE, "a kept tile, put together from its cells"
    ),
    ApiRoute("GET", "/health", handlers.get_health, READ, "whether all is well; 503 where it is not"),
    ApiRoute("GET", "/monitoring/health", handlers.get_health, READ, "the same"),
    ApiRoute("GET", "/alerts", handlers.get_alerts, READ, "what deserves attention now"),
    ApiRoute("GET", "/metrics", handlers.get_metrics, READ, "for Prometheus"),
    ApiRoute("GET", "/security/integrity_status", handlers.get_integrity, READ, "what was refused and found at fault"),
    ApiRoute("GET", "/security/node_status/{id}", handlers.get_node_status, READ, "what a holder of experts gave"),
    ApiRoute("POST", "/security/quarantine_node/{id}", handlers.post_quarantine, CHANGE, "ask it no more for now"),
    ApiRoute("POST", "/security/recover_node/{id}", handlers.post_recover, CHANGE, "ask it again at once"),
    ApiRoute("GET", "/security/badge", audits.get_badge, READ, "what this node verified about itself, signed"),
    ApiRoute("GET", "/security/answers", audits.get_answers, READ, "the answers that are kept"),
    ApiRoute("GET", "/security/answers/{id}", audits.get_answer, READ, "what this node signed about one"),
    ApiRoute(
        "GET", "/security/answers/{id}/record", audits.get_answer_record, CHANGE, "the same with its prompt and text"
    ),
    ApiRoute("POST", "/security/verify_audit", audits.post_audit_record, ASK, "a saved answer, again", AuditRequest),
    ApiRoute("POST", "/security/verify_audit/{id}", audits.post_audit, ASK, "an answer of this node, again"),
    ApiRoute("GET", "/consensus/status", handlers.get_chain_status, READ, "height, votes, money, roots"),
    ApiRoute("GET", "/consensus/blocks/{height}", handlers.get_block, READ, "a block"),
    ApiRoute("GET", "/consensus/transactions/{id}", handlers.get_transaction, READ, "a transaction"),
    ApiRoute("GET", "/consensus/accounts/{address}", handlers.get_account, READ, "an account"),
    ApiRoute("GET", "/consensus/proof", handlers.get_proof, READ, "a proof of ?key="),
    ApiRoute("GET", "/consensus/validators", handlers.get_validators, READ, "who votes"),
    ApiRoute("GET", "/consensus/validators/{id}", handlers.get_validator, READ, "one of them"),
    ApiRoute("GET", "/consensus/epochs/current", handlers.get_epoch, READ, "the epoch"),
    ApiRoute("GET", "/consensus/kept", handlers.get_kept, READ, "what the chain says is kept"),
    ApiRoute("GET", "/consensus/state_sync/status", handlers.get_state_sync, READ, "how joining goes"),
    ApiRoute("GET", "/consensus/state_sync/checkpoints", handlers.get_checkpoints, READ, "checkpoints for newcomers"),
    ApiRoute(
        "POST",
        "/consensus/transactions",
        handlers.post_transaction,
        CHANGE,
        "submit a signed transaction",
        handlers.TransactionRequest,
    ),
    ApiRoute(
        "POST",
        "/consensus/validators/register",
        handlers.post_register,
        CHANGE,
        "the same, for a registration",
        handlers.TransactionRequest,
    ),
    ApiRoute("POST", "/stop", handlers.post_stop, CHANGE, "end this node cleanly"),
    ApiRoute("GET", "/openapi.json", get_openapi, READ, "this table, for programs"),
    ApiRoute("GET", "/docs", get_docs, READ, "this table, for people"),
)
