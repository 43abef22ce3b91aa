"""A run on disk: where it is, what its files hold, whether a supervisor has its lock."""

from rankdeck.runner.run_directory.files import (
    EVENTS_FILE,
    LOG_FILE,
    MODEL_FOLDER_FILE,
    MODEL_LOCK_FILE,
    OUTPUTS_FILE,
    PROMPTS_FILE,
    belongs_to_a_run,
    moved_to,
    read_events,
    read_outputs,
    stranger_among_files,
)
from rankdeck.runner.run_directory.lock import Hold, hold_lock, supervisor_alive, supervisor_comes, supervisor_starts
from rankdeck.runner.run_directory.output_copy import copy_outputs, stamp_of
from rankdeck.runner.run_directory.places import (
    find_run,
    list_runs,
    newest_live_run,
    newest_runs,
    own_folder,
    runs_directory,
    socket_path,
    unreadable_runs,
)
from rankdeck.runner.run_directory.run_file import (
    RUN_FILE,
    RunFile,
    RunFileError,
    has_ended,
    read_run_file,
    replace_file,
    reserve_room,
    write_last_run_file,
    write_run_file,
)
