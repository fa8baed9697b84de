"""Real processes of one gloo group: each runs the same function, and what it returns is what the test reads."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing


def run_in_group(target, size, folder):
    """What `target(rank, size, folder)` returned in each of the processes, by rank."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = torch.multiprocessing.get_context("forkserver")
    # These imports take longest: one process makes them, and all ranks start as its copies.
    context.set_forkserver_preload(["torch.distributed.fsdp", "zsharp.training"])
    processes = [
        context.Process(target=_join, args=(target, rank, size, store.port, folder)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(timeout=180)
        assert [process.exitcode for process in processes] == [0] * size
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _join(target, rank, size, port, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.save(target(rank, size, folder), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
