/**
 * The HTTP side of `/metrics`: GET and HEAD, one answer, then the connection ends. Loaded with the first scrape.
 *
 * Connections come from metrics-server.ts, which limits their number and time. This file only answers the request.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { CONTENT_TYPE } from "./metrics-text.ts";

/** A scraper sends a few hundred bytes. */
const MAX_HEADER_BYTES = 8192;

const renderers = new WeakMap<Socket, () => string>();

const server: Server = createServer({ maxHeaderSize: MAX_HEADER_BYTES, keepAlive: false }, answer);

/** Takes the connection over and answers its first request. */
export function answerScrape(socket: Socket, render: () => string): void {
  renderers.set(socket, render);
  server.emit("connection", socket);
}

function answer(request: IncomingMessage, response: ServerResponse): void {
  const { socket, method, url = "" } = request;
  // A body is not read.
  response.setHeader("Connection", "close");
  const refuse = (status: number, text: string, headers: Record<string, string> = {}): void => {
    response.writeHead(status, { "Content-Type": "text/plain", ...headers }).end(`${text}\n`);
  };
  if (url.split("?", 1)[0] !== "/metrics") return refuse(404, "only /metrics exists");
  if (method !== "GET" && method !== "HEAD")
    return refuse(405, "only GET and HEAD are allowed", { Allow: "GET, HEAD" });
  let text: string;
  try {
    text = renderers.get(socket)?.() ?? "";
  } catch (error) {
    return refuse(500, `cannot render metrics: ${error instanceof Error ? error.message : error}`);
  }
  response.writeHead(200, { "Content-Type": CONTENT_TYPE, "Content-Length": Buffer.byteLength(text) });
  response.end(method === "HEAD" ? undefined : text);
}
