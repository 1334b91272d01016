"""What a page says of the form that led to it, by the name in its address."""

from collections.abc import Mapping


def N_(text: str) -> str:  # noqa: N802 - gettext's own name for a text that is translated elsewhere
    """Mark `text` for the translators."""
    return text


NOTICES: Mapping[str, str] = {
    "signed_out": N_("You are signed out."),
    "task_created": N_("The task is in the queue."),
    "task_cancelled": N_("The task is cancelled, or will be as soon as its worker hears of it."),
    "task_requeued": N_("The task is in the queue again."),
    "worker_drained": N_("The worker takes nothing new; what runs there runs on."),
    "worker_resumed": N_("The worker takes tasks again."),
    "worker_removed": N_("The worker is removed; its tasks are in the queue again."),
    "saved": N_("Saved."),
    "key_revoked": N_("The key is revoked."),
    "promoted": N_("The node leads the project now."),
    "sync_started": N_("The sync job is under way."),
    "sync_failed": N_("The agent says that the sync failed; the job below tells why."),
}
