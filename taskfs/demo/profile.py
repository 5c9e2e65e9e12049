"""Constant responses about the user and the backend, which the public client requests on import."""

from __future__ import annotations

from typing import Any, Final

_COSTS: Final = {"compute": 1.5, "storage": 0.25, "data_transfer": 0.0, "task_orchestration": 0.15}
_OLDEST_CLIENT: Final = "0.10.0"
_VERSION: Final = "0.18.12"

# path: (whether it needs the key, the response)
PROFILE_RESPONSES: Final[dict[str, tuple[bool, Any]]] = {
    "/version": (False, {"version": _VERSION, "min_supported_client_version": _OLDEST_CLIENT}),
    "/version-check": (
        False,
        {
            "is_valid": True,
            "client_version": _VERSION,
            "server_version": _VERSION,
            "min_supported_client_version": _OLDEST_CLIENT,
        },
    ),
    "/users/info": (
        True,
        {
            "email": "demo@example.org",
            "username": "demo",
            "name": "Demo User",
            "organization": None,
            "tier": "Demo",
            "total_available_credits": 100.0,
            "credits_currency": "USD",
            "terms_and_conditions_decision": "accepted",
            "terms_and_conditions_decision_ts": "2025-06-01T08:00:00+00:00",
            "extra_metadata": {},
            "registration_ts": "2025-06-01T08:00:00+00:00",
            "costs_fee_percentage": 0.0,
            "terminate_resources_credits_threshold": 0.0,
            "country": None,
            "region": None,
            "discord_handle": None,
        },
    ),
    "/users/costs": (
        True,
        {
            "currency": "USD",
            "credits": 100.0,
            "costs": [
                {
                    "month": "2025-06",
                    "total": sum(_COSTS.values()),
                    "components": _COSTS,
                    "undiscounted_components": None,
                    "type": "estimate",
                    "warning": None,
                }
            ],
        },
    ),
    "/users/fees": (
        True,
        {
            "costs_fee_percentage": {"amount": 0.0, "active": False, "unit": "%"},
            "task_orchestration_fee": {
                "amount": 0.01,
                "active": True,
                "active_since": "2025-06-01T00:00:00+00:00",
                "unit": "USD",
            },
        },
    ),
    "/users/quotas": (
        True,
        {
            "max_vcpus": {
                "id": "max_vcpus",
                "label": "Maximum simultaneous vCPUs",
                "max_allowed": 1000,
                "in_use": 16,
                "unit": "vCPU",
                "scope": "global",
            }
        },
    ),
}
