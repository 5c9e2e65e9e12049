"""Compression of the JSON records of tasks, which are short and nearly alike."""

import zlib
from typing import Final

# Window and memory level of deflate: a record has 2 KB, and larger tables take longer to clear.
_WINDOW_BITS: Final = -12  # negative: neither header nor checksum
_MEMORY_LEVEL: Final = 5
# Texts of a typical record, the frequent ones last. Another dictionary is another format of the
# database: see `database_file.VERSION`.
_DICTIONARY: Final = (
    b'"pending-input""submitted""started""computation-started""failed""killed""openfoam"'
    b'{"task_id":"","status":"success","status_alias":"Success","simulator":"","storage_path":"/",'
    b'"storage_input_path":"/input.zip","storage_output_path":"/output.zip",'
    b'"storage_region":"europe-west1","container_image":"docker://inductiva/kutu:","project":'
    b'"default","is_terminated":true,"create_time":"2026-01-01T00:00:00.000000+00:00",'
    b'"input_submit_time":"2026-","start_time":"2026-","computation_start_time":"2026-",'
    b'"computation_end_time":"2026-","end_time":"2026-","estimated_computation_cost":0.000,'
    b'"metrics":{"total_seconds":0.000,"container_image_download_seconds":0.5,'
    b'"container_image_size_bytes":0000,"queue_time_seconds":0.0,"computation_seconds":0.0,'
    b'"input_upload_seconds":0.5,"input_download_seconds":0.25,"input_decompression_seconds":0.05,'
    b'"output_upload_seconds":null,"input_zipped_size_bytes":null,"input_size_bytes":null,'
    b'"output_total_files":null,"output_size_bytes":null,"output_zipped_size_bytes":null,'
    b'"output_compression_seconds":null},"executer":{"uuid":"","cpu_count_logical":4,'
    b'"cpu_count_physical":2,"memory":16000000000,"n_mpi_hosts":1,"vm_type":'
    b'"projects/zones/europe-west1-b/machineTypes/c2-standard-4","vm_name":"vm-",'
    b'"host_type":"GCP","error_detail":null},"machine_group_name":"","machine_group_id":"",'
    b'"error_detail":null,"input_resources":[],"stream_zip":true,"num_retries":0,'
    b'"compress_with":"SEVEN_Z","task_metadata":{},"extra_params":{},'
    b'"resubmit_on_preemption":true,"duration_seconds":0.000,'
    b'"orchestration_fee":{"amount":0.01,"charged":true,"currency":"USD"}}'
)


def compress(record: bytes) -> bytes:
    """Return *record* compressed; equal records give equal results."""
    packer = zlib.compressobj(
        1, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY
    )
    return packer.compress(record) + packer.flush()


def decompress(packed: bytes) -> bytes:
    """Return the record that `compress` was given, or its beginning if *packed* was cut.

    Raises:
        zlib.error: *packed* is invalid.
    """
    unpacker = zlib.decompressobj(_WINDOW_BITS, _DICTIONARY)
    return unpacker.decompress(packed) + unpacker.flush()
