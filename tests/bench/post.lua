-- wrk: the same chat again and again; the last lines are one JSON object with what came of it.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = os.getenv("BENCH_BODY")

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status
   io.write(string.format('\n{"requests": %d, "bytes": %d, "failed": %d}\n',
                          summary.requests, summary.bytes, failed))
end
