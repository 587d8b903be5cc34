// What the programs share: every case is tried, and all that came is one JSON object.

export const hello = "hello world";
export const unknown = "codr";
export const [url, role] = process.argv.slice(2);

async function outcome(act) {
  try {
    return { value: await act() };
  } catch (problem) {
    const { name, message, statusCode, status, code } = problem;
    return { error: { type: name, text: message, status: statusCode ?? status, code } };
  }
}

export async function tell(cases) {
  const told = {};
  for (const [name, act] of Object.entries(cases)) told[name] = await outcome(act);
  console.log(JSON.stringify(told));
}
