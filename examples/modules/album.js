// An album page of the pictures in /album, made of three files:
//   orvalho script send peer@phone2 examples/modules/album.js --param title=Summer
//
// /// orvalho
// needs = ["target.fs.read:/album/**"]
// ///
import { pictures } from "./pictures.ts";
import * as page from "./page.js";

export default async ({ target, params }) => {
  const found = pictures(await target.fs.list("/album"));
  return page.render(params?.title ?? "Album", found);
};
