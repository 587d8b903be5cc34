-- wrk: the same chat again and again, at most BENCH_MOST times where that is given; the last lines
-- are one JSON object with what came of it.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = os.getenv("BENCH_BODY")

local left = tonumber(os.getenv("BENCH_MOST") or "")
if left then
   function delay()
      left = left - 1
      return left < 0 and 3600000 or 0
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status
   io.write(string.format('\n{"requests": %d, "bytes": %d, "failed": %d}\n',
                          summary.requests, summary.bytes, failed))
end
