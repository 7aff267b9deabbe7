// Does what it reads on standard input, one JSON object a line, with the real libraries; says what happens the same way.
const { createInterface } = require("node:readline");
const Pusher = require("pusher-js");
const Server = require("pusher");

const clients = {};
let server;

const tell = (what) => process.stdout.write(JSON.stringify(what) + "\n");

function watch(name, pusher) {
  pusher.connection.bind("state_change", ({ current }) => tell({ who: name, state: current }));
  pusher.connection.bind("error", (error) => tell({ who: name, error: error?.error?.data ?? String(error) }));
  pusher.bind_global((event, data) => tell({ who: name, event, data }));
}

// Signs as a page's own server would.
const handlers = (user) => ({
  channelAuthorization: {
    customHandler: ({ socketId, channelName }, callback) =>
      callback(null, server.authorizeChannel(socketId, channelName, channelName.startsWith("presence-") ? user : undefined)),
  },
  userAuthentication: {
    customHandler: ({ socketId }, callback) => callback(null, server.authenticateUser(socketId, { id: user.user_id, ...user })),
  },
});

const actions = {
  server: ({ options }) => void (server = new Server(options)),
  connect({ who, key, options, user }) {
    clients[who] = new Pusher(key, { ...(user ? handlers(user) : {}), ...options });
    watch(who, clients[who]);
  },
  subscribe({ who, channel }) {
    const joined = clients[who].subscribe(channel);
    joined.bind_global((event, data) => tell({ who, channel, event, data }));
    joined.bind("client-move", (_, meta) => tell({ who, channel, moved: meta?.user_id }));
    joined.bind("pusher:subscription_succeeded", () =>
      tell({ who, joined: channel, members: joined.members?.members, count: joined.members?.count, me: joined.members?.me }),
    );
    joined.bind("pusher:subscription_error", (error) => tell({ who, refused: channel, status: error.status }));
  },
  unsubscribe: ({ who, channel }) => clients[who].unsubscribe(channel),
  trigger: ({ who, channel, event, data }) => clients[who].channel(channel).trigger(event, data),
  signin({ who }) {
    clients[who].user.bind_global((event, data) => tell({ who, user: event, data }));
    clients[who].signin();
  },
  disconnect: ({ who }) => clients[who].disconnect(),
  connected: ({ who }) => clients[who].connect(),
  async call({ method, args }) {
    const answer = await server[method](...args);
    tell({ answer: answer && typeof answer.text === "function" ? { status: answer.status, body: await answer.json() } : answer });
  },
  webhook({ headers, body }) {
    const hook = server.webhook({ headers, rawBody: body });
    tell({ answer: hook.isValid() ? { events: hook.getEvents(), time: hook.getTime().getTime() } : null });
  },
};

createInterface({ input: process.stdin }).on("line", async (line) => {
  const said = JSON.parse(line);
  try {
    await actions[said.do](said);
  } catch (error) {
    tell({ failed: said.do, status: error.status, message: String(error.message), body: error.body });
  }
}).on("close", () => process.exit(0));
