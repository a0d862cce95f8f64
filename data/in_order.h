// in_order.h - spreads work over threads and delivers the results in the order of the input
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

// produce(hand) runs on the calling thread and passes each item to hand(). work(item, thread) turns an item into a
// result, on one of `threads` other threads. take(result) gets the results one at a time, in the order of the items.
// At most 2 * threads + 1 items exist at once.
//
// If work or take throws, the exception of the earliest item is rethrown after all results before it were taken.
// Otherwise an exception of produce is rethrown at the end.
template <class Item, class Produce, class Work, class Take>
void in_order(int threads, Produce produce, Work work, Take take) {
    struct Stopped {};
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Item> waiting;
    int64_t begun = 0, taken = 0;
    bool ended = false, stopped = false;
    std::exception_ptr failure, producer_failure;

    const auto run = [&](int thread) {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            changed.wait(lock, [&] { return !waiting.empty() || ended || stopped; });
            if (waiting.empty() || stopped) return;
            Item item            = std::move(waiting.front());
            const int64_t number = begun++;
            waiting.pop_front();
            changed.notify_all();
            lock.unlock();
            std::exception_ptr thrown;
            decltype(work(item, thread)) result;
            try {
                result = work(item, thread);
            } catch (...) { thrown = std::current_exception(); }
            lock.lock();
            changed.wait(lock, [&] { return taken == number || stopped; });
            if (stopped) return;
            lock.unlock();  // safe: the other threads wait until `taken` changes
            try {
                if (!thrown) take(std::move(result));
            } catch (...) { thrown = std::current_exception(); }
            lock.lock();
            taken++;
            if (thrown) failure = thrown, stopped = true;
            changed.notify_all();
        }
    };
    std::vector<std::thread> pool;
    for (int i = 0; i < threads; i++) pool.emplace_back(run, i);
    try {
        produce([&](Item item) {
            std::unique_lock<std::mutex> lock(mutex);
            changed.wait(lock, [&] { return waiting.size() < size_t(threads) || stopped; });
            if (stopped) throw Stopped();
            waiting.push_back(std::move(item));
            changed.notify_all();
        });
    } catch (const Stopped&) {
    } catch (...) { producer_failure = std::current_exception(); }
    {
        const std::lock_guard<std::mutex> lock(mutex);
        ended = true;
        changed.notify_all();
    }
    for (std::thread& t : pool) t.join();
    if (failure) std::rethrow_exception(failure);
    if (producer_failure) std::rethrow_exception(producer_failure);
}
