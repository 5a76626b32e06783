-- Ask for the paths after "--" in turn, on every connection.
local requests = {}
local turn = 0

function init(args)
  for i = 1, #args do
    requests[i] = wrk.format("GET", args[i])
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end
